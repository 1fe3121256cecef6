# A toy scene, fitted in about three minutes, then looked at. Ctrl-C ends the viewer.
gaussian4d demo --out demo_run
gaussian4d view demo_run/run
