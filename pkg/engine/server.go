package engine

import (
	"debug/elf"
	"debug/macho"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

const (
	childArgument = "clickhouse-engine"       // hidden first argument of a child
	childEnv      = "WELFAREHUB_ENGINE_CHILD" // set in every child
	libraryEnv    = "WELFAREHUB_ENGINE"       // path of the library or of a clickhouse binary
	libraryName   = "libchdb.so"              // in the npm package
	howToInstall  = "run `make engine`, or set " + libraryEnv + " to libchdb.so or to a clickhouse binary"
)

// server is what runs as a child: the library in our own binary, or a clickhouse binary.
type server struct {
	path    string
	library bool
}

// command is the child process for the given data; it listens where config.xml says.
func (s server) command(data *dataDir, httpAddr string) (*exec.Cmd, error) {
	if !s.library {
		return exec.Command(s.path, "server", "--config-file="+data.configFile()), nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	return exec.Command(self, childArgument, s.path, data.configFile(), httpAddr, data.passwordFile()), nil
}

// findServer looks for the engine: the given path, the environment, the cache folder that the installer fills, PATH.
func findServer(given, dataDir string) (server, error) {
	for _, c := range []struct{ path, from string }{{given, "the configured path"}, {os.Getenv(libraryEnv), libraryEnv}} {
		if c.path == "" {
			continue
		}
		if _, err := os.Stat(c.path); err != nil {
			return server{}, fmt.Errorf("%w: %s names %s: %w; %s", ErrLibraryMissing, c.from, c.path, err, howToInstall)
		}
		return checkServer(c.path)
	}
	if embedded {
		for _, path := range libraryPlaces(dataDir) {
			if _, err := os.Stat(path); err == nil {
				return checkServer(path)
			}
		}
	}
	if path, err := exec.LookPath("clickhouse"); err == nil {
		return server{path: path}, nil
	}
	return server{}, fmt.Errorf("%w: no library in .cache/engine and no clickhouse on PATH; %s", ErrLibraryMissing, howToInstall)
}

// libraryPlaces lists where an installed library may lie: under .cache/engine of the working folder and the folders
// above it, of the binary's folder and the one above, and of the data folder and the one above.
func libraryPlaces(dataDir string) []string {
	arch := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	pkg := "lib-" + runtime.GOOS + "-" + arch
	if runtime.GOOS == "linux" {
		pkg += "-gnu"
	}
	var bases []string
	if wd, err := os.Getwd(); err == nil {
		for dir := wd; ; dir = filepath.Dir(dir) {
			bases = append(bases, dir)
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	if self, err := os.Executable(); err == nil {
		bases = append(bases, filepath.Dir(self), filepath.Dir(filepath.Dir(self)))
	}
	if abs, err := filepath.Abs(dataDir); err == nil {
		bases = append(bases, abs, filepath.Dir(abs))
	}
	places := make([]string, len(bases))
	for i, base := range bases {
		places[i] = filepath.Join(base, ".cache", "engine", "node_modules", "@chdb", pkg, libraryName)
	}
	return places
}

// checkServer tells a library from a program and makes sure that a library fits this machine, because a failed load
// would only say so in the child's output.
func checkServer(path string) (server, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return server{}, fmt.Errorf("find engine %s: %w", path, err)
	}
	if filepath.Ext(path) != ".so" && filepath.Ext(path) != ".dylib" {
		if _, err := exec.LookPath(path); err != nil {
			return server{}, fmt.Errorf("%w: %s is neither a library (.so) nor a program: %w", ErrLibraryUnfit, path, err)
		}
		return server{path: path}, nil
	}
	if !embedded {
		return server{}, fmt.Errorf("%w: this build cannot load %s (it was built with -tags noengine); use a clickhouse binary or a server", ErrLibraryUnfit, path)
	}
	if err := checkLibrary(path, runtime.GOOS, runtime.GOARCH); err != nil {
		return server{}, err
	}
	return server{path: path, library: true}, nil
}

func checkLibrary(path, goos, goarch string) error {
	got, err := libraryMachine(path)
	if err != nil {
		return fmt.Errorf("%w: %s is damaged or no library: %w; %s", ErrLibraryUnfit, path, err, howToInstall)
	}
	if want := goos + "/" + goarch; got != want {
		return fmt.Errorf("%w: %s is for %s, this program is %s; %s", ErrLibraryUnfit, path, got, want, howToInstall)
	}
	return nil
}

// libraryMachine names what a library is built for, as "linux/amd64".
func libraryMachine(path string) (string, error) {
	// The npm package names the library .so on every system, so the content decides.
	if f, err := macho.Open(path); err == nil {
		defer f.Close()
		arch, ok := map[macho.Cpu]string{macho.CpuAmd64: "amd64", macho.CpuArm64: "arm64"}[f.Cpu]
		if !ok {
			arch = f.Cpu.String()
		}
		return "darwin/" + arch, nil
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if f.Type != elf.ET_DYN {
		return "", fmt.Errorf("ELF type is %s, want ET_DYN", f.Type)
	}
	arch, ok := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}[f.Machine]
	if !ok {
		arch = f.Machine.String()
	}
	return "linux/" + arch, nil
}
