# Every fit ends with report.html; this writes it anew, with more of the worst views.
gaussian4d report demo_run/run --worst 12
