package main

import (
	"fmt"
	"sort"

	"github.com/spf13/cobra"

	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/schemas"
)

func newSchema() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Check and register the event schemas",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var rf registryFlags
	register := &cobra.Command{
		Use:     "register",
		Short:   "Register the schemas of this version",
		Long:    `register puts the schema of each event under <topic>-value. What is there already stays.`,
		Example: `  welfarehub schema register --registry-url http://registry:8081`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := rf.client()
			if err != nil {
				return &exitError{exitUsage, err}
			}
			ids, err := registry.RegisterAll(cmd.Context(), client)
			if err != nil {
				return err
			}
			subjects := make([]string, 0, len(ids))
			for s := range ids {
				subjects = append(subjects, s)
			}
			sort.Strings(subjects)
			for _, s := range subjects {
				fmt.Fprintf(cmd.OutOrStdout(), "%5d  %s\n", ids[s], s)
			}
			return nil
		},
	}
	rf.add(register.Flags())
	cmd.AddCommand(register, &cobra.Command{
		Use:   "check",
		Short: "Check that the schemas are compatible with all released versions",
		Long: `check compares each schema with every version that was released (schemas/released), both ways:
FULL_TRANSITIVE. It exits 1 and names the field where one is not compatible.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			problems, err := registry.Check(schemas.Avro, schemas.Released)
			if err != nil {
				return err
			}
			for _, p := range problems {
				fmt.Fprintln(cmd.OutOrStdout(), p)
			}
			if len(problems) > 0 {
				return fmt.Errorf("%d problems; give a new field a default, or name a new event", len(problems))
			}
			fmt.Fprintln(cmd.OutOrStdout(), "all schemas are compatible with the released versions")
			return nil
		},
	})
	return cmd
}
