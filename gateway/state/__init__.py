"""What outlives a request: in this process's memory, or shared by several gateways."""
