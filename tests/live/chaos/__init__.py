"""A worker and its relay under faults, and what arrived held against what its tasks wrote down."""
