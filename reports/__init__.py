"""Fit reports: one plan as HTML, Markdown, JSON or CSV."""

from reports.render import FORMS, Form, render

__all__ = ["FORMS", "Form", "render"]
