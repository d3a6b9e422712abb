"""Files of records, each read by what it is: documents, pairs, queries, candidates, ids."""
