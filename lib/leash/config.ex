defmodule Leash.Config do
  # The application's environment, read once at start and turned into a map. Only this module
  # reads it.
  #
  #     config :leash,
  #       run_dir: "/run/my_app/leash",
  #       sweep: [deadline: 10_000]
  @moduledoc false

  alias Leash.{DefaultDir, OptionsError, Platform, Schema, Sweep}

  @type t :: %{
          run_dir: String.t(),
          record: :required | :optional,
          cgroup: Path.t() | nil,
          sweep: keyword() | false,
          stop_timeout: non_neg_integer(),
          app: String.t(),
          unsupported_os: :error | :degrade,
          precompiled: String.t() | nil,
          precompiled_sums: String.t() | nil
        }

  # Two starts in different directories have to find each other.
  @directory "an absolute path"

  @spec schema() :: Schema.t()
  def schema do
    [
      run_dir: [
        type: {:or, [nil, {:custom, __MODULE__, :directory, []}]},
        type_doc: @directory,
        type_spec: quote(do: Path.t() | nil),
        doc:
          "The directory of the records of runs. The default is `$LEASH_RUN_DIR`, else " <>
            "`$RUNTIME_DIRECTORY/leash`, else `/tmp/leash-<uid>` (`/tmp/leash-<uid>.<n>` if " <>
            "that is not a directory of this user)."
      ],
      record: [
        type: {:in, [:optional, :required]},
        default: :optional,
        doc:
          "`:required` refuses to start if the run's record cannot be written. Otherwise a " <>
            "warning is logged, and the environment tag is the only witness of the run's " <>
            "life. If the directory cannot be used at all, nothing is swept, which is logged, " <>
            "too."
      ],
      sweep: [
        type: {:or, [{:in, [false]}, keyword_list: Sweep.schema().options]},
        type_doc: "options of Leash.sweep/1, such as [scope: :app], or false",
        type_spec: quote(do: keyword() | false),
        default: [],
        doc: "Options of the sweep at start, see `Leash.sweep/1`. `false` turns it off."
      ],
      cgroup: [
        type: {:or, [nil, {:custom, Leash.Cgroup, :directory, []}]},
        type_doc: "the absolute path of a control group",
        type_spec: quote(do: Path.t()),
        doc:
          "The control group below which those of workers with `:cgroup` are made, see " <>
            "`Leash.Cgroup`. The default is the VM's own group, or the one above it."
      ],
      stop_timeout: [
        type: Schema.milliseconds(),
        default: 10_000,
        doc:
          "Milliseconds after which an application stop ends every tree with SIGKILL, " <>
            "whatever its ladder."
      ],
      app: [
        type: {:or, [nil, {:custom, __MODULE__, :app, []}]},
        type_doc: "an atom or a string",
        type_spec: quote(do: atom() | String.t()),
        doc:
          "The application's name in the record, for `scope: :app`. The default is the name " <>
            "of the release or project, at the root of an umbrella that of its module."
      ],
      unsupported_os: [
        type: {:in, [:error, :degrade]},
        default: :error,
        doc:
          "On a system other than Linux, starts return `{:error, :unsupported_os}`. With " <>
            "`:degrade`, programs are plain ports with a process group: for a developer's " <>
            "machine, never for production. See `guides/systems.md`. On Linux it has no effect."
      ],
      precompiled: [
        type: {:or, [nil, {:custom, Schema, :text, []}]},
        doc:
          "Read when Leash is compiled: the URL of files that are built already, in which " <>
            "`{version}`, `{target}` and `{archive}` are replaced. See the guide install."
      ],
      precompiled_sums: [
        type: {:or, [nil, {:custom, Schema, :text, []}]},
        doc:
          "Read when Leash is compiled: the file of SHA-256 sums that a download is checked " <>
            "against. The default is the one in the package."
      ]
    ]
    |> Schema.new()
  end

  @doc false
  @spec directory(term()) :: {:ok, String.t()} | {:error, String.t()}
  def directory(path) do
    if Schema.text?(path) and Path.type(path) == :absolute,
      do: {:ok, path},
      else: {:error, @directory}
  end

  @doc false
  @spec app(term()) :: {:ok, String.t()} | {:error, String.t()}
  def app(app) when is_atom(app) and not is_boolean(app), do: {:ok, Atom.to_string(app)}
  def app(app), do: if(Schema.text?(app), do: {:ok, app}, else: {:error, "an atom or a string"})

  @doc "Returns the configuration, or what is wrong with it."
  @spec load() :: {:ok, t()} | {:error, OptionsError.t()}
  def load do
    # The application controller may add a key of its own, and `Leash.Platform` has one.
    given = Keyword.drop(Application.get_all_env(:leash), [:included_applications, :os_type])

    with {:ok, config} <- Schema.validate(schema(), given),
         {:ok, run_dir} <- run_dir(config.run_dir) do
      {:ok, %{config | run_dir: run_dir, app: config.app || app()}}
    end
  end

  defp run_dir(nil) do
    dir = default_run_dir()

    with {:error, expected} <- directory(dir),
         do: Schema.error(:run_dir, expected, dir, "from LEASH_RUN_DIR or RUNTIME_DIRECTORY")
  end

  defp run_dir(configured), do: {:ok, configured}

  defp default_run_dir do
    cond do
      dir = nonempty("LEASH_RUN_DIR") ->
        dir

      # systemd.exec(5): several directories are separated by colons.
      dirs = nonempty("RUNTIME_DIRECTORY") ->
        dirs |> String.split(":") |> hd() |> Path.join("leash")

      # Not $XDG_RUNTIME_DIR: a login shell has it, cron and sudo do not, and two starts have to
      # find each other.
      Platform.supported?() ->
        DefaultDir.path("/tmp", Leash.Native.euid())

      # No run has a record there.
      true ->
        "/tmp"
    end
  end

  defp app do
    nonempty("RELEASE_NAME") || (mix?() && project()) || "unnamed"
  end

  # A release has no Mix, and a plain `elixir` has the module but not its processes.
  defp mix?, do: List.keymember?(Application.started_applications(), :mix, 0)

  defp project do
    config = apply(Mix.Project, :config, [])

    cond do
      config[:app] != nil -> Atom.to_string(config[:app])
      config[:apps_path] != nil -> umbrella(apply(Mix.Project, :get, []))
      true -> nil
    end
  end

  # The root of an umbrella is no application.
  defp umbrella(module), do: module |> inspect() |> String.replace_suffix(".MixProject", "")

  defp nonempty(name) do
    case System.get_env(name) do
      "" -> nil
      value -> value
    end
  end
end
