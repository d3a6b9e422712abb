"""Reports as a person reads them, and two of them compared."""
