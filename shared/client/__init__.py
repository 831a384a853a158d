"""A small client for Penstock's services: mTLS channels, pages of List, streams and watches that resume. Knows no
dataset."""
