// EdgeDNS
