defmodule Leash.Build.Sandbox do
  # Projects in directories of their own, and Mix on them with a PATH that the test decides. The
  # tests see Leash's compiler task from outside, as an application that depends on Leash sees it.
  @moduledoc false

  import ExUnit.Assertions

  alias Mix.Tasks.Compile.LeashNative
  alias Mix.Tasks.Compile.LeashNative.Target

  @compile {:no_warn_undefined, [LeashNative, Target]}

  @root Path.expand("../..", __DIR__)

  # Variables that would lead Mix or cargo in the sandbox back to the build that runs these tests.
  @inherited ~w(MIX_BUILD_PATH MIX_BUILD_ROOT MIX_DEPS_PATH MIX_EXS MIX_TARGET CARGO_TARGET_DIR
                CARGO_BUILD_TARGET LEASH_PREBUILT LEASH_PRECOMPILED_URL RELEASE_ROOT http_proxy
                https_proxy HTTPS_PROXY no_proxy NO_PROXY)

  @doc "The project under test."
  def root, do: @root

  @doc """
  Returns NIF, shim and, if it was built, command of the running build: nothing here compiles
  Rust.
  """
  def artefacts, do: to_string(:code.priv_dir(:leash))

  @doc "Runs Mix; returns output (both streams) and status."
  def mix(directory, args, env \\ []) do
    System.cmd("mix", args,
      cd: directory,
      env: Enum.map(@inherited, &{&1, nil}) ++ [{"MIX_ENV", "prod"} | env],
      stderr_to_stdout: true
    )
  end

  @doc "Does the same, and must succeed."
  def mix!(directory, args, env \\ []) do
    case mix(directory, args, env) do
      {output, 0} -> output
      {output, status} -> raise "mix #{Enum.join(args, " ")}: status #{status}\n#{output}"
    end
  end

  @doc "Returns the one sentence with which a compilation fails. It must fail."
  def refusal!(directory, env) do
    {output, status} = mix(directory, ["compile"], env)
    assert status != 0
    assert [_all, sentence] = Regex.run(~r/^\*\* \(Mix\) (.*)$/m, output), output
    refute output =~ "\n    ", "a stack trace beside the sentence:\n" <> output
    sentence
  end

  @doc "Makes an application that depends on Leash by path. Its code is `lib`."
  def dependant!(directory, code) do
    File.mkdir_p!(Path.join(directory, "lib"))

    File.write!(Path.join(directory, "mix.exs"), """
    defmodule Kennel.MixProject do
      use Mix.Project

      def project do
        [app: :kennel, version: "1.0.0", deps: [{:leash, path: #{inspect(@root)}}]]
      end

      def application, do: [extra_applications: [:logger]]
    end
    """)

    File.write!(Path.join(directory, "lib/kennel.ex"), code)
    directory
  end

  @doc "Makes a copy of Leash with the whole library."
  def copy!(directory) do
    skeleton!(directory)
    File.rm_rf!(Path.join(directory, "lib"))

    for part <- ~w(lib src),
        do: File.cp_r!(Path.join(@root, part), Path.join(directory, part))

    directory
  end

  @doc "Makes a git repository of Leash with what a dependency needs. Its branch is `main`."
  def repository!(directory) do
    File.mkdir_p!(directory)

    for part <- ~w(lib src mix mix.exs rebar.config native .cargo Cargo.toml Cargo.lock),
        do: File.cp_r!(Path.join(@root, part), Path.join(directory, part))

    identity = ~w(-c user.name=Leash -c user.email=leash@localhost)
    commands = [["init", "--quiet"], ["add", "--all"], identity ++ ~w(commit --quiet -m Leash)]

    for arguments <- commands ++ [~w(branch -M main)] do
      {_output, 0} = System.cmd("git", arguments, cd: directory, stderr_to_stdout: true)
    end

    directory
  end

  @doc """
  Makes Leash's build without its library, which compiles in no time, with some Rust source.
  """
  def skeleton!(directory) do
    File.mkdir_p!(Path.join(directory, "native/shim/src"))
    File.write!(source(directory), "//! A source.\n")

    File.mkdir_p!(Path.join(directory, "native/tag/src"))

    for file <- ~w(mix.exs Cargo.toml native/tag/src/build_mark.rs),
        do: File.cp!(Path.join(@root, file), Path.join(directory, file))

    File.cp_r!(Path.join(@root, "mix"), Path.join(directory, "mix"))
    File.mkdir_p!(Path.join(directory, "lib"))

    File.write!(Path.join(directory, "lib/application.ex"), """
    defmodule Leash.Application do
      use Application
      def start(_type, _args), do: Supervisor.start_link([], strategy: :one_for_one)
    end
    """)

    directory
  end

  @doc "Packs what `from` has of NIF, shim and command as `script/release` does, into `archive`."
  def archive!(archive, from \\ artefacts()) do
    names = Enum.filter(~w(leash_nif.so leash-shim leash), &File.exists?(Path.join(from, &1)))

    entries =
      for name <- names,
          do: {~c"leash-x/#{name}", File.read!(Path.join(from, name))}

    :ok = :erl_tar.create(String.to_charlist(archive), entries, [:compressed])
    archive
  end

  @doc "Returns the name of the archive for this VM."
  def archive_name do
    Code.ensure_loaded?(Target) || Code.require_file("mix/leash_native/target.exs", @root)
    "leash-#{LeashNative.version(@root)}-#{Target.name()}.tar.gz"
  end

  @doc "Returns the path of a skeleton's Rust source."
  def source(directory), do: Path.join(directory, "native/shim/src/lib.rs")

  @doc """
  Makes a cargo that builds nothing. It notes each call and hands out the artefacts in `from`, in
  the words of the real one. Returns the environment that puts it first on the PATH.
  """
  def stub_cargo!(directory, from, version \\ "1.100.0") do
    bin = Path.join(directory, "stub-bin")
    File.mkdir_p!(bin)
    File.cp!(Path.join(from, "leash_nif.so"), Path.join(bin, "libleash_nif.so"))
    File.cp!(Path.join(from, "leash-shim"), Path.join(bin, "leash-shim"))
    command!(from, Path.join(bin, "leash"))
    cargo = Path.join(bin, "cargo")

    File.write!(cargo, """
    #!/bin/sh
    echo "$@" >> #{bin}/calls
    case "$*" in
    --version) echo "cargo #{version} (0000000 2025-01-01)" ;;
    *leash-nif*) echo '{"reason":"compiler-artifact","filenames":["#{bin}/libleash_nif.so"],"executable":null}'
      echo '{"reason":"compiler-artifact","filenames":["#{bin}/leash"],"executable":"#{bin}/leash"}' ;;
    *leash-shim*) echo '{"reason":"compiler-artifact","filenames":["#{bin}/leash-shim"],"executable":"#{bin}/leash-shim"}' ;;
    esac
    """)

    File.chmod!(cargo, 0o755)
    [{"PATH", bin <> ":" <> System.get_env("PATH")}]
  end

  @doc "Copies the command of the running build, or writes a stub that prints its arguments."
  def command!(from, to) do
    with {:error, :enoent} <- File.cp(Path.join(from, "leash"), to) do
      File.write!(to, "#!/bin/sh\necho leash \"$@\"\n")
      File.chmod!(to, 0o755)
    end

    to
  end

  @doc "Returns how often the stub was called, and starts the count again."
  def cargo_calls(directory) do
    calls = Path.join(directory, "stub-bin/calls")
    result = with {:ok, text} <- File.read(calls), do: String.split(text, "\n", trim: true)
    File.rm(calls)
    if is_list(result), do: result, else: []
  end

  @doc """
  Returns a PATH without cargo. A directory that holds cargo and other programs is replaced by one
  with links to the others.
  """
  def path_without_cargo!(directory) do
    path =
      for {entry, index} <- Enum.with_index(String.split(System.get_env("PATH"), ":")) do
        if File.exists?(Path.join(entry, "cargo")),
          do: links!(entry, Path.join(directory, "path-#{index}")),
          else: entry
      end

    [{"PATH", Enum.join(path, ":")}]
  end

  defp links!(from, to) do
    File.mkdir_p!(to)

    for name <- File.ls!(from),
        name != "cargo",
        do: File.ln_s(Path.join(from, name), Path.join(to, name))

    to
  end
end
