"""What every part uses: clocks, errors, histograms, the verdict, child processes. It imports nothing of ours."""
