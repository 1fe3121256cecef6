# The same scene fitted anew while you look: pause, go on, stop and save in the page. The page stays open after the fit.
gaussian4d fit demo_run/scene --out demo_run/watched --max-steps 4000 --view
# A run that another terminal is fitting is followed:
gaussian4d view demo_run/watched
