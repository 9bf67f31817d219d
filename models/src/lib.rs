//! The triage networks behind one backend trait.
