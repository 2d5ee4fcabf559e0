"""Starting the pipeline's steps on a cluster. Importable: submitit finds what to run on the nodes by module name."""
