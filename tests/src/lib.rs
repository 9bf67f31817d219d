//! The real daemon against real DICOM peers.
