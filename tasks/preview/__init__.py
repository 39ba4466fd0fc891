"""Looking before paying: what a data set is like and what a sweep will cost."""
