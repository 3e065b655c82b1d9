"""What ``taskobs view`` does in the terminal: it joins a page, and becomes the command."""
