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
          unsupported_os: :error | :degrade
        }

  @spec schema() :: Schema.t()
  def schema do
    [
      run_dir: [
        type: {:or, [nil, {:custom, Schema, :text, []}]},
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
        type_doc: "options of Leash.sweep/1, or false",
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
        type: {:or, [nil, {:custom, Schema, :text, []}]},
        doc:
          "The application's name in the record, for `scope: :app`. The default is the name " <>
            "of the release or project."
      ],
      unsupported_os: [
        type: {:in, [:error, :degrade]},
        default: :error,
        doc:
          "On a system other than Linux, starts return `{:error, :unsupported_os}`. With " <>
            "`:degrade`, programs are plain ports with a process group: for a developer's " <>
            "machine, never for production. See `guides/systems.md`. On Linux it has no effect."
      ]
    ]
    |> Schema.new()
  end

  @doc "Returns the configuration, or what is wrong with it."
  @spec load() :: {:ok, t()} | {:error, OptionsError.t()}
  def load do
    # The application controller may add a key of its own, and `Leash.Platform` has one.
    given = Keyword.drop(Application.get_all_env(:leash), [:included_applications, :os_type])

    with {:ok, config} <- Schema.validate(schema(), given) do
      {:ok, %{config | run_dir: config.run_dir || default_run_dir(), app: config.app || app()}}
    end
  end

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
    case apply(Mix.Project, :config, [])[:app] do
      nil -> nil
      app -> Atom.to_string(app)
    end
  end

  defp nonempty(name) do
    case System.get_env(name) do
      "" -> nil
      value -> value
    end
  end
end
