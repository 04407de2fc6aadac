(() => {
  "use strict";
  const SUPER = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  const number = (v) => {
    if (v === null || Number.isNaN(v)) return "not finite";
    if (v === 0) return "0";
    const magnitude = Math.floor(Math.log10(Math.abs(v)));
    const plain = magnitude > -4 && magnitude < 5;
    const [mantissa, exponent] = plain ? [v.toFixed(Math.max(2 - magnitude, 0))] : v.toExponential(2).split("e");
    const power = exponent ? "×10" + [...String(Number(exponent))].map((c) => SUPER[c]).join("") : "";
    return mantissa.replace("-", "−") + power;
  };
  const svgElement = (name, attributes) => {
    const element = document.createElementNS(document.querySelector("svg").namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const pixel = ([low, high, start, end], value, log) => {
    const f = log ? Math.log10 : (v) => v;
    return start + ((f(value) - f(low)) / (f(high) - f(low))) * (end - start);
  };
  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] < x) low = middle; else high = middle; }
    return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
  };

  class Plot {
    constructor(figure) {
      this.figure = figure;
      this.data = JSON.parse(figure.dataset.plot);
      this.svg = figure.querySelector("svg[role=img]");
      this.outputs = [...figure.querySelectorAll("output")];
      this.roles = [...figure.querySelectorAll(".swatch path")].map((p) => p.getAttribute("class").split(" ")[1]);
      this.layer = this.svg.appendChild(svgElement("g", { "pointer-events": "none" }));
      this.svg.setAttribute("tabindex", "0");
      this.group = [this];
      this.listen();
      this.legend();
    }
    listen() {
      const move = (event) => {
        const box = this.svg.getBoundingClientRect();
        const [low, high, start, end] = this.data.x;
        const x = ((event.clientX - box.left) / box.width) * this.svg.viewBox.baseVal.width;
        this.everywhere(low + (Math.min(Math.max((x - start) / (end - start), 0), 1)) * (high - low));
      };
      this.svg.addEventListener("pointermove", move);
      this.svg.addEventListener("pointerdown", move);
      this.svg.addEventListener("pointerleave", () => this.everywhere(null));
      this.svg.addEventListener("blur", () => this.everywhere(null));
      this.svg.addEventListener("keydown", (event) => {
        const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!direction) return;
        event.preventDefault();
        const xs = this.data.lines[0].x;
        const here = this.x == null ? (direction > 0 ? -1 : xs.length) : nearest(xs, this.x);
        this.everywhere(xs[Math.min(Math.max(here + direction, 0), xs.length - 1)]);
      });
    }
    legend() {
      if (this.outputs.length < 2) return;
      this.figure.querySelectorAll(".legend .name").forEach((name, i) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = name.textContent;
        button.title = "show or hide this line";
        button.setAttribute("aria-pressed", "true");
        button.addEventListener("click", () => {
          const shown = button.getAttribute("aria-pressed") !== "true";
          button.setAttribute("aria-pressed", String(shown));
          this.svg.querySelectorAll(`[data-line="${i}"]`).forEach((p) => p.classList.toggle("hidden-line", !shown));
        });
        name.replaceChildren(button);
      });
    }
    label(x, y, words) {
      const half = 4 + 3.6 * words.length;
      const middle = Math.min(Math.max(x, half), this.svg.viewBox.baseVal.width - half);
      const text = svgElement("text", { class: "x now", x: middle, y });
      text.textContent = words;
      this.layer.append(svgElement("rect", { class: "behind", x: middle - half, y: y - 11, width: 2 * half, height: 15, rx: 3 }), text);
    }
    everywhere(x) { this.group.forEach((plot) => plot.show(x)); }
    show(x) {
      this.x = x;
      this.layer.replaceChildren();
      if (x === null) {
        this.outputs.forEach((output) => { output.textContent = output.dataset.last; });
        return;
      }
      const toggle = this.figure.querySelector(".log-switch");
      const log = Boolean(toggle && toggle.checked);
      const axis = log ? this.data.log : this.data.linear;
      const [, , bottom, top] = axis;
      const across = pixel(this.data.x, x, false);
      this.layer.append(svgElement("path", { class: "pointer", d: `M${across} ${bottom}V${top}` }));
      this.data.lines.forEach((line, i) => {
        if (!line.x.length) return;
        const k = nearest(line.x, x);
        this.outputs[i].textContent = number(line.y[k]);
        const button = this.figure.querySelectorAll(".legend button")[i];
        if (line.y[k] === null || (button && button.getAttribute("aria-pressed") === "false")) return;
        const up = pixel(axis, line.y[k], log);
        if (up >= top - 2 && up <= bottom + 2) {
          this.layer.append(svgElement("circle", { class: `dot ${this.roles[i]}`, cx: pixel(this.data.x, line.x[k], false), cy: up, r: 3.5 }));
        }
      });
      this.label(across, bottom + 16, Math.round(x).toLocaleString("en"));
    }
  }

  const plots = new Map([...document.querySelectorAll("figure.plot")].map((figure) => [figure, new Plot(figure)]));
  document.querySelectorAll(".linked").forEach((panels) => {
    const group = [...panels.querySelectorAll("figure.plot")].map((figure) => plots.get(figure));
    group.forEach((plot) => { plot.group = group; });
  });
  // A <title> would pop up over the values under the pointer; its words stay for those who listen.
  document.querySelectorAll("svg[role=img] > title").forEach((title) => {
    const description = title.nextElementSibling;
    title.parentNode.removeAttribute("aria-labelledby");
    title.parentNode.setAttribute("aria-label", `${title.textContent}. ${description ? description.textContent : ""}`);
    title.remove();
  });
  document.querySelectorAll(".code").forEach((block) => {
    if (!navigator.clipboard) return;
    const button = document.createElement("button");
    button.className = "copy";
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.append(button);
  });
})();
