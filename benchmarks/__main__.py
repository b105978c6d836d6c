"""Every benchmark, one after the other: `make bench`."""

from benchmarks import admission, cpu_decode, failover, grammar, replica, through_http

for benchmark in (cpu_decode, failover, grammar, replica, through_http, admission):
    print(f"== {benchmark.__name__}")
    benchmark.main()
