//! The domain of chest CT triage: geometry, gate, lungs, severity, policy.
