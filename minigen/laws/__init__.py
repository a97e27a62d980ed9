"""Laws that a sampler must obey, for ours and for anybody's: no trained network, no tolerance above rounding.

Write down three members (`protocol`), and `run_laws` says what holds, what fails and where, and what is not claimed. Every model is the
best prediction for data whose answer is known (`beds`); noise is scripted, and what the model is shown is recorded (`recorder`). The
laws are functions whose docstrings say equation, assumption, tolerance and what they catch: `schedule_laws`, `exact_laws`, `order_laws`.
"""

from .adapters import FromStep, Ours, ours
from .protocol import Fault, Level, Sampler
from .suite import LAWS, as_json, report, run_laws
from .verdict import Check, Law, Verdict
