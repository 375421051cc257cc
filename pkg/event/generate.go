package event

//go:generate go run ../../internal/gen -root ../..
