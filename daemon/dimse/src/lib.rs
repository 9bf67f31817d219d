//! DICOM message services (C-ECHO, C-STORE) in both roles.
