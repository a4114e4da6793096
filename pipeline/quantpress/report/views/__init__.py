"""The views of a report: tables, Markdown, a page, plots, MLflow."""
