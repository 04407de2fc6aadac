"""Where the units of a sweep are computed: processes of this machine, Ray, or jobs of Slurm."""
