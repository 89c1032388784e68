"""Requests on their way to the model and back: cut, limited, sent again, counted."""
