"""What both programs know: frames, packed spans and the layout of shared memory."""
