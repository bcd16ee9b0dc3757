"""Order, parameters and artifacts: the flows of the DAG and the command line."""
