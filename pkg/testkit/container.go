package testkit

func newKafkaContainer() (*Server, error)      { return nil, missingf("containers come next") }
func newClickHouseContainer() (*Server, error) { return nil, missingf("containers come next") }
