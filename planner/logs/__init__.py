"""Reads a vLLM start-up log: its figures beside the predicted ones, why the launch failed, and what fixes it."""

from planner.logs.explain import Explanation, explain
from planner.logs.report import explanation_text
from planner.logs.store import default_store, save
from planner.logs.text import read_log

__all__ = ["Explanation", "default_store", "explain", "explanation_text", "read_log", "save"]
