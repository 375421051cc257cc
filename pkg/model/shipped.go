package model

import "github.com/welfarehub/welfarehub/pkg/codes"

// Shipped returns the reference data of this release.
func Shipped() Reference {
	lists := codes.Default()
	ref := Reference{Regions: map[string]string{}, KnownNomenclature: func(code string) bool { return lists.KnownNomenclature([]byte(code)) }}
	for _, c := range lists.Comuni() {
		ref.Regions[c.Code] = c.Region
	}
	return ref
}
