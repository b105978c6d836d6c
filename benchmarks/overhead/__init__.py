"""What a request costs that goes through a gateway: ours and its peers, side by side."""
