"""Diagnosis: from a run to mechanisms ranked, with their gears, remedies tried, and surprises."""

from geartrain.diagnosis.diagnose import diagnose as diagnose
from geartrain.diagnosis.diagnose import plan as plan
from geartrain.diagnosis.result import Diagnosis as Diagnosis
