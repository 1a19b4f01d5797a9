//! The command line: parse, dispatch, print. Decides nothing about a migration.
