//! One VM from source to result. Does not know that a daemon exists.
