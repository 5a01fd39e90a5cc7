//! Everything of Pointsman that speaks to a Kubernetes API server, and nothing that decides.
