"""Every benchmark, one after the other: `make bench`."""

from benchmarks import cpu_decode, failover, replica, through_http

for benchmark in (cpu_decode, failover, replica, through_http):
    print(f"== {benchmark.__name__}")
    benchmark.main()
