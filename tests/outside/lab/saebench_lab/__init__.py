"""What a laboratory adds to saebench: a property and an SAE format."""
