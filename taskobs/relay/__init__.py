"""The pipeline `relay`: the processes of a worker write to one helper process, which exports."""
