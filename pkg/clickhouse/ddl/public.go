package ddl

func publicFile() string { return "" }

func freshnessFile() string { return "" }
