//! What the appliance sends: pictures and Secondary Captures, built from an outcome.
