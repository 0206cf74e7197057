defmodule Mix.Tasks.Compile.LeashNative do
  @moduledoc """
  Builds the NIF, the shim and the command `leash` with cargo, and installs them into the
  application's `priv`.

  The module is a Mix compiler. So `mix compile`, `mix test`, `mix release` and the compilation of
  Leash as a dependency of another application run it.

    * Sources are read and compared, which takes milliseconds. If they did not change since the
      last build, cargo is not called.
    * Cargo builds in `leash-cargo` below the build directory, shared by all Mix environments, or
      in `CARGO_TARGET_DIR` if that is set.
    * An artefact with unchanged contents is left alone. A changed one is written beside its place
      and renamed. A write into a library that a running VM has mapped would crash that VM.

  `LEASH_PREBUILT=DIR` is for machines without Rust. It takes `DIR/leash_nif.so`, `DIR/leash-shim`
  and, if it exists, `DIR/leash`, and does not call cargo. The library itself does not need the
  command. Only `Leash.Operator` and the tasks `mix leash.*` run it.
  """

  use Mix.Task.Compiler

  @nif "leash_nif.so"
  @shim "leash-shim"
  @command "leash"
  @needed [@nif, @shim]
  @artefacts @needed ++ [@command]

  @manifest "compile.leash_native"
  @manifest_version 1

  @root Path.dirname(__DIR__)

  # Variables that change the result of a build.
  @environment ~w(LEASH_PREBUILT CARGO_TARGET_DIR CARGO_BUILD_TARGET CARGO_BUILD_RUSTFLAGS
                  CARGO_ENCODED_RUSTFLAGS RUSTFLAGS RUSTUP_TOOLCHAIN)

  @doc "Returns the version in the workspace's `Cargo.toml` below `root`."
  @spec version(Path.t()) :: String.t()
  def version(root), do: cargo_toml(root, "version")

  @impl true
  def run(args) do
    # Another system has no native part: the application says so at its start.
    if os() == {:unix, :linux}, do: run_here(args), else: leave_out(os())
  end

  defp run_here(args) do
    raise_if(host_problem(architecture()))
    fingerprint = fingerprint()

    if "--force" not in args and read_manifest() == {fingerprint, installed()} do
      {:noop, []}
    else
      artefacts = if dir = prebuilt(), do: prebuilt_artefacts(dir), else: build()
      Enum.each(artefacts, fn {name, source} -> install(source, Path.join(priv(), name)) end)
      # An artefact of another build would have another version.
      for name <- @artefacts -- Enum.map(artefacts, &elem(&1, 0)),
          do: File.rm(Path.join(priv(), name))

      # The fingerprint from before the build: a source that was saved meanwhile is built again
      # next time.
      write_manifest({fingerprint, installed()})
      {:ok, []}
    end
  end

  @impl true
  def manifests, do: [manifest()]

  @impl true
  def clean do
    Enum.each([manifest() | Enum.map(@artefacts, &Path.join(priv(), &1))], &File.rm/1)
  end

  # Tests of other systems set `:os_type`, as for `Leash.Platform.os/0`.
  defp os, do: Application.get_env(:leash, :os_type) || :os.type()

  # Once, and not at each compilation.
  defp leave_out(os) do
    if read_manifest() == os do
      {:noop, []}
    else
      Mix.shell().info(without_native(os))
      write_manifest(os)
      {:ok, []}
    end
  end

  @doc "Returns what is said on a system without a native part, as one sentence."
  @spec without_native({atom(), atom()}) :: String.t()
  def without_native({_family, name}) do
    "Leash runs on Linux and this is #{name}: it is compiled without its native part, and starts " <>
      "no program here (`config :leash, unsupported_os: :degrade` has plain ports instead)."
  end

  @doc "Returns why this architecture cannot run Leash, as one sentence, or `nil`."
  @spec host_problem(String.t()) :: String.t() | nil
  def host_problem(architecture) do
    unless architecture =~ ~r/^(x86_64|amd64|aarch64|arm64)/ or
             System.get_env("CARGO_BUILD_TARGET") do
      "Leash runs on x86-64 and aarch64 and this machine is #{architecture}: compile it on one of " <>
        "those, or set CARGO_BUILD_TARGET to cross-compile for one."
    end
  end

  @doc "Returns why this output of `cargo --version` will not do, as one sentence, or `nil`."
  @spec cargo_problem({String.t(), non_neg_integer()}, String.t()) :: String.t() | nil
  def cargo_problem({output, 0}, needed) do
    case Regex.run(~r/^cargo (\d+)\.(\d+)/m, output) do
      [_all, major, minor] ->
        found = {String.to_integer(major), String.to_integer(minor)}

        if found < minimum(needed) do
          "Leash needs Rust #{needed} or newer and cargo here is #{major}.#{minor}: update it " <>
            "(`rustup update stable`), or " <> without_cargo()
        end

      nil ->
        unusable_cargo(output)
    end
  end

  def cargo_problem({output, _status}, _needed), do: unusable_cargo(output)

  defp unusable_cargo(output) do
    said = output |> String.split("\n", trim: true) |> List.first("nothing")

    "Leash is built with cargo, and `cargo --version` fails here (it says: #{said}): " <>
      "repair the " <>
      "Rust installation (`rustup default stable`), or " <> without_cargo()
  end

  defp minimum(needed) do
    [major, minor | _rest] = needed |> String.split(".") |> Enum.map(&String.to_integer/1)
    {major, minor}
  end

  defp without_cargo do
    "set LEASH_PREBUILT to a directory that holds #{@nif} and #{@shim} built elsewhere."
  end

  defp architecture, do: List.to_string(:erlang.system_info(:system_architecture))

  defp prebuilt do
    case System.get_env("LEASH_PREBUILT") do
      unset when unset in [nil, ""] -> nil
      dir -> Path.expand(dir)
    end
  end

  defp prebuilt_artefacts(dir) do
    for name <- @needed, not File.regular?(Path.join(dir, name)) do
      Mix.raise(
        "LEASH_PREBUILT is #{dir}, which has no file #{name}: put #{@nif} and #{@shim} " <>
          "there, or " <>
          "unset LEASH_PREBUILT to build them with cargo."
      )
    end

    unless File.regular?(Path.join(dir, @command)) do
      Mix.shell().info(
        "LEASH_PREBUILT is #{dir}, which has no file #{@command}: Leash works without that " <>
          "command, " <>
          "and Leash.Operator and mix leash.* do not."
      )
    end

    for name <- @artefacts, path = Path.join(dir, name), File.regular?(path), do: {name, path}
  end

  defp build do
    cargo = System.find_executable("cargo")
    needed = cargo_toml(@root, "rust-version")

    if cargo == nil do
      Mix.raise(
        "Leash is built with cargo, which is not on the PATH: install Rust #{needed} or newer " <>
          "(https://rustup.rs), or " <> without_cargo()
      )
    end

    raise_if(cargo_problem(cargo_version(cargo), needed))

    # In one call, which compiles only once what the two have in common.
    release = cargo_build(cargo, ~w(--release -p leash-nif -p leash-cli))
    shim = cargo_build(cargo, ~w(--profile shim -p leash-shim --features freestanding))

    [
      {@nif, artefact(release, ~r/"([^"]*libleash_nif\.so)"/)},
      {@command, artefact(release, ~r/"executable":"([^"]*\/leash)"/)},
      {@shim, artefact(shim, ~r/"executable":"([^"]*leash-shim)"/)}
    ]
  end

  defp cargo_version(cargo) do
    System.cmd(cargo, ["--version"], cd: @root, stderr_to_stdout: true)
  end

  # Diagnostics and progress go to stderr as usual.
  defp cargo_build(cargo, args) do
    args = ["build", "--message-format=json-render-diagnostics" | args]

    case System.cmd(cargo, args, cd: @root, env: [{"CARGO_TARGET_DIR", target_dir()}]) do
      {messages, 0} ->
        messages

      {_messages, status} ->
        Mix.raise("`cargo #{Enum.join(args, " ")}` in #{@root} failed with status #{status}.")
    end
  end

  # Cargo reports where the artefact is. The place depends on cargo's configuration as much as on
  # the variables here.
  defp artefact(messages, pattern) do
    case Regex.scan(pattern, messages, capture: :all_but_first) do
      [] -> Mix.raise("cargo succeeded and named no artefact like #{inspect(pattern)}.")
      found -> found |> List.last() |> hd()
    end
  end

  defp target_dir do
    case System.get_env("CARGO_TARGET_DIR") do
      unset when unset in [nil, ""] -> Path.join(build_root(), "leash-cargo")
      dir -> dir
    end
  end

  # `_build` and not `_build/ENV`, so that dev, test and prod share one build of the crates.
  # MIX_BUILD_PATH is one directory for everything, and its parent may be any directory.
  defp build_root do
    path = Mix.Project.build_path()
    if System.get_env("MIX_BUILD_PATH") in [nil, ""], do: Path.dirname(path), else: path
  end

  defp install(source, target) do
    contents = File.read!(source)

    if File.read(target) != {:ok, contents} do
      File.mkdir_p!(Path.dirname(target))
      temporary = "#{target}.#{System.pid()}"
      File.write!(temporary, contents)
      File.chmod!(temporary, 0o755)
      File.rename!(temporary, target)
    end
  end

  defp priv, do: Path.join(Mix.Project.app_path(), "priv")

  defp installed, do: Enum.map(@artefacts, &digest(Path.join(priv(), &1)))

  defp fingerprint do
    inputs = if dir = prebuilt(), do: Enum.map(@artefacts, &Path.join(dir, &1)), else: sources()

    # The task itself, because another version of it may build or install differently.
    inputs = [__ENV__.file | inputs]
    {Enum.map(@environment, &System.get_env/1), Enum.map(inputs, &digest/1)}
  end

  # Not every file below native: a fuzzing directory holds a target directory of its own.
  defp sources do
    ~w(Cargo.toml Cargo.lock rust-toolchain rust-toolchain.toml .cargo/config.toml
       native/*/*.{rs,toml,ld} native/*/src/**)
    |> Enum.flat_map(&Path.wildcard(Path.join(@root, &1), match_dot: true))
    |> Enum.sort()
  end

  # Contents and not times: File.stat/2 counts seconds, and a checkout changes them all.
  defp digest(path) do
    case File.read(path) do
      {:ok, contents} -> {path, :erlang.md5(contents)}
      {:error, reason} -> {path, reason}
    end
  end

  defp manifest, do: Path.join(Mix.Project.manifest_path(), @manifest)

  defp read_manifest do
    with {:ok, contents} <- File.read(manifest()),
         {@manifest_version, state} <- :erlang.binary_to_term(contents) do
      state
    else
      _other -> nil
    end
  rescue
    # A manifest that was cut off costs one call of cargo.
    ArgumentError -> nil
  end

  defp write_manifest(state) do
    File.mkdir_p!(Path.dirname(manifest()))
    File.write!(manifest(), :erlang.term_to_binary({@manifest_version, state}))
  end

  defp raise_if(nil), do: :ok
  defp raise_if(sentence), do: Mix.raise(sentence)

  defp cargo_toml(root, key) do
    contents = File.read!(Path.join(root, "Cargo.toml"))
    [_before, package] = String.split(contents, "[workspace.package]", parts: 2)
    [_all, value] = Regex.run(~r/^#{key}\s*=\s*"([^"]+)"/m, package)
    value
  end
end
