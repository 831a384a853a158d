"""A small client for Penstock's services: mTLS channels, pages of List, streams that resume. Knows no dataset."""
