package postgres

// Schema is the store's schema, for the tests.
func (s *Store) Schema() string { return s.schema }
