defmodule Mix.Tasks.Compile.LeashNative do
  @moduledoc """
  Builds the NIF, the shim and the command `leash` with cargo, or takes them from where they are
  built already, and installs them into the application's `priv`.

  The module is a Mix compiler. So `mix compile`, `mix test`, `mix release` and the compilation of
  Leash as a dependency of another application run it.

    * Sources are read and compared, which takes milliseconds. If they did not change since the
      last build, cargo is not called.
    * Cargo builds in `leash-cargo` below the build directory, shared by all Mix environments, or
      in `CARGO_TARGET_DIR` if that is set.
    * An artefact with unchanged contents is left alone. A changed one is written beside its place
      and renamed. A write into a library that a running VM has mapped would crash that VM.

  A machine without Rust takes built files from the first of these:

    1. `LEASH_PREBUILT=PATH`: an archive of `script/release`, a directory with that archive, or a
       directory with `leash_nif.so`, `leash-shim` and, if it exists, `leash`. A relative path is
       relative to where the user stands, also if Leash is a dependency. `LEASH_PREBUILT=` (empty)
       builds with cargo, and forgets what was taken before.
    2. `LEASH_PRECOMPILED_URL`, or `config :leash, precompiled: URL`: a URL (`https`, `http`,
       `file`) in which `{version}`, `{target}` and `{archive}` are replaced. The archive is
       checked against `mix/SHA256SUMS`, or the file that `config :leash, precompiled_sums:` names.
    3. `leash-prebuilt` below the build directory, where the files of 1 and 2 are kept.

  Machine, version, protocol and C library of each file are checked before it is used. The library
  itself does not need the command. Only `Leash.Operator` and the tasks `mix leash.*` run it.
  """

  use Mix.Task.Compiler

  alias Mix.Tasks.Compile.LeashNative.{Cargo, Prebuilt, Target}

  # Each is loaded when it is needed: this file is read by every command of Mix.
  @compile {:no_warn_undefined, [Cargo, Prebuilt, Target]}

  @artefacts ["leash_nif.so", "leash-shim", "leash"]

  @manifest "compile.leash_native"
  @manifest_version 2

  @root Path.dirname(__DIR__)

  # Variables that change the result of a build.
  @environment ~w(CARGO_TARGET_DIR CARGO_BUILD_TARGET CARGO_BUILD_RUSTFLAGS
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
    part("target")
    raise_if(Target.host_problem(Target.architecture()))
    source = source()
    fingerprint = fingerprint(source)

    if "--force" not in args and read_manifest() == {fingerprint, installed()} do
      {:noop, []}
    else
      artefacts = artefacts(source)
      Enum.each(artefacts, fn {name, path} -> install(File.read!(path), priv(name)) end)
      # An artefact of another build would have another version.
      for name <- @artefacts -- Enum.map(artefacts, &elem(&1, 0)), do: File.rm(priv(name))

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
    part("prebuilt")
    Prebuilt.forget(kept_dir())
    Enum.each([manifest() | Enum.map(@artefacts, &priv/1)], &File.rm/1)
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

  # Files that are built already are taken at once: they are compared as they are kept.
  defp source do
    case prebuilt() do
      nil ->
        :cargo

      source ->
        part("prebuilt")
        {:prebuilt, Prebuilt.take(source, kept_dir(), expected())}
    end
  end

  defp prebuilt do
    case {System.get_env("LEASH_PREBUILT"), precompiled()} do
      {"", _url} ->
        part("prebuilt")
        Prebuilt.forget(kept_dir())
        nil

      {nil, nil} ->
        if File.exists?(kept_dir()), do: kept()

      {nil, url} ->
        sums = Application.get_env(:leash, :precompiled_sums) || Path.join(__DIR__, "SHA256SUMS")
        {:url, url, where_the_user_stands(sums)}

      {path, _url} ->
        {:path, where_the_user_stands(path)}
    end
  end

  defp kept do
    part("prebuilt")
    if Prebuilt.kept?(kept_dir()), do: :kept
  end

  defp precompiled do
    case System.get_env("LEASH_PRECOMPILED_URL") do
      unset when unset in [nil, ""] -> Application.get_env(:leash, :precompiled)
      url -> url
    end
  end

  # Mix changes to the directory of a dependency before it compiles that. The shell's directory is
  # in PWD, which a program that started Mix may have left as it was. The directory of
  # dependencies is the top project's.
  defp where_the_user_stands(path) do
    places =
      Enum.reject([System.get_env("PWD"), Path.dirname(Mix.Project.deps_path())], &is_nil/1)

    paths = Enum.map(places, &Path.expand(path, &1))
    Enum.find(paths, hd(paths), &File.exists?/1)
  end

  defp expected do
    mark = File.read!(Path.join(@root, "native/tag/src/build_mark.rs"))
    [_all, protocol] = Regex.run(~r/\(protocol (\d+)\)"/, mark)
    %{version: version(@root), protocol: protocol, target: Target.name()}
  end

  defp artefacts(:cargo) do
    part("cargo")
    Cargo.build(target_dir(), cargo_toml(@root, "rust-version"))
  end

  defp artefacts({:prebuilt, files}), do: files

  defp target_dir do
    case System.get_env("CARGO_TARGET_DIR") do
      unset when unset in [nil, ""] -> Path.join(build_root(), "leash-cargo")
      dir -> dir
    end
  end

  defp kept_dir, do: Path.join(build_root(), "leash-prebuilt")

  # `_build` and not `_build/ENV`, so that dev, test and prod share one build of the crates.
  # MIX_BUILD_PATH is one directory for everything, and its parent may be any directory.
  defp build_root do
    path = Mix.Project.build_path()
    if System.get_env("MIX_BUILD_PATH") in [nil, ""], do: Path.dirname(path), else: path
  end

  @doc "Writes `contents` to `target`, beside it first, unless it has these contents."
  @spec install(binary(), Path.t()) :: :ok
  def install(contents, target) do
    if File.read(target) != {:ok, contents} do
      temporary = "#{target}.#{System.pid()}"

      with :ok <- File.mkdir_p(Path.dirname(target)),
           :ok <- File.write(temporary, contents),
           :ok <- File.chmod(temporary, 0o755),
           :ok <- File.rename(temporary, target) do
        :ok
      else
        {:error, reason} ->
          File.rm(temporary)
          Mix.raise("#{target} cannot be written: #{:file.format_error(reason)}.")
      end
    end

    :ok
  end

  defp priv(name), do: Path.join([Mix.Project.app_path(), "priv", name])

  defp installed, do: Enum.map(@artefacts, &digest(priv(&1)))

  # The tasks themselves, because another version of them may build or install differently.
  defp fingerprint(source) do
    tasks = [__ENV__.file | Path.wildcard(Path.join(__DIR__, "leash_native/*.exs"))]
    {inputs(source), Enum.map(tasks, &digest/1)}
  end

  defp inputs(:cargo) do
    {:cargo, Enum.map(@environment, &System.get_env/1), Enum.map(sources(), &digest/1)}
  end

  defp inputs({:prebuilt, files}) do
    {:prebuilt, for({_name, path} <- files, do: digest(path))}
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

  defp part(name), do: Code.require_file("leash_native/#{name}.exs", __DIR__)

  defp raise_if(nil), do: :ok
  defp raise_if(sentence), do: Mix.raise(sentence)

  defp cargo_toml(root, key) do
    contents = File.read!(Path.join(root, "Cargo.toml"))
    [_before, package] = String.split(contents, "[workspace.package]", parts: 2)
    [_all, value] = Regex.run(~r/^#{key}\s*=\s*"([^"]+)"/m, package)
    value
  end
end
