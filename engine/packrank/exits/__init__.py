"""Candidates that stop early: margins, the stages that they run through, calibration."""
