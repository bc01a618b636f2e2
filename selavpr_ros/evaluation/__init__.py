"""Evaluation of systems on image folders and of runs: metrics, tables, plots and pages."""
