"""How a diagnosis is shown: an offline page (`html`), a notebook fragment (`html`) and text (`terminal`).

Everything here reads `geartrain.diagnosis.Diagnosis` and computes nothing but positions and words.
"""
