defmodule Leash.Sweep do
  @moduledoc """
  The findings and actions of a sweep: the result of `Leash.sweep/1`.

  A sweep looks for processes that carry the tag of a run whose VM is gone, and ends them. It runs
  at the start of the `:leash` application, before any worker can start.

    * `:matches` - every process that carries a tag, see `t:match/0`
    * `:runs` - every run that was seen, with its verdict and the reason
    * `:survivors` - the matches that should have ended and live. `:why` is `:eperm`,
      `:uninterruptible` (state D), `:kill_pending`, `:deadline`, `:descriptors_exhausted`,
      `:no_pidfd` (the machine refuses pidfds, and nothing is signalled by its number),
      `:unreadable` or `:tag_lost`
    * `:complete` - whether all of `/proc` could be seen
    * `:incomplete_because` - what could not be seen: `:no_proc`, `:hidepid`, `:no_identity`,
      `:descriptors_exhausted`, `:unreadable`, `:records`, `:fleeting`. `:no_identity` is
      `subset=pid`: processes are seen, but not which boot this is, so no run is judged.
      `:hidepid` alone means that only other users' processes were not seen
    * `:passes` - how many times the process table was read. The last pass found nothing to end
    * `:elapsed_ms` - milliseconds in all
    * `:records_dropped` - ids of runs of which nothing is left

  ## How a run is judged

  One living witness is enough to keep a run. A run is *dead* only if all of these hold:

    * The lock on its record is free, or is held by a forked child of a VM that is provably gone.
    * Its owner, by pid, start time, boot and pid namespace, is provably gone.
    * No process of it names a living owner.

  Otherwise its processes are kept, and the verdict gives the reason:

  | verdict | meaning |
  |---|---|
  | `:dead` | ended by the sweep |
  | `:own` | this VM's own run |
  | `:live` | its VM lives |
  | `:own_outer_run` | this VM is itself part of that run |
  | `:disputed` | the witnesses contradict each other |
  | `:unknown_owner` | nothing names its owner, or its owner cannot be seen |
  | `:foreign_namespace` | its owner lived in another pid namespace |

  A process of a dead run is also kept in these cases:

    * It outlives its VM on purpose (`:outlives`).
    * It owns a live run or descends from such an owner (`:live_run_owner`).
    * It is older than its run's owner (`:predates_owner`).
    * It belongs to another user, without everything that proves it ours (`:foreign_user`).
    * It is another user's, in the control group of the run's VM, and nothing of it that can be
      read names a run (`:unproven`). Below `sudo`, a descendant becomes such a process. If its
      environment cannot be read, then `:complete` is false.

  The environment alone convicts nothing (`:env_only`), because daemons such as `at` and pm2 hand
  it to processes that are not descendants. It counts only if every living ancestor of the process
  is of the run, and one of these explains the missing mark:

    * The mark of its worker was off or could not be set, or the process has lowered its own
      limits below it.
    * The VM's bounding set holds CAP_SYS_RESOURCE, with which `su` and `sudo` reset the mark, and
      the process is in the VM's control group.
  """

  alias Leash.{Cleanup, Ladder, Run, RunId, Schema, Telemetry}

  require Logger

  defstruct matches: [],
            runs: [],
            survivors: [],
            complete: true,
            incomplete_because: [],
            passes: 0,
            elapsed_ms: 0,
            records_dropped: []

  @typedoc """
  A process that carries a tag.

  Its keys are `:pid`, `:start_ticks`, `:command`, `:state`, `:uid`, `:run_id`, `:worker`,
  `:carriers` (those of `:mark`, `:env` and `:argv` with the tag), `:verdict`, `:why`, `:action`
  (`:ended`, `:kept`, `:survived`, `:gone`) and `:ended_by`. `:start_ticks` is `nil` if `/proc`
  hides it.
  """
  @type match :: %{required(:pid) => pos_integer(), optional(atom()) => term()}

  @type t :: %__MODULE__{
          matches: [match()],
          runs: [map()],
          survivors: [match()],
          complete: boolean(),
          incomplete_because: [term()],
          passes: non_neg_integer(),
          elapsed_ms: non_neg_integer(),
          records_dropped: [Leash.RunId.t()]
        }

  @doc false
  @spec schema() :: Schema.t()
  def schema do
    [
      mode: [
        type: {:in, [:end, :report]},
        default: :end,
        doc: "`:report` only looks and explains."
      ],
      scope: [
        type: {:in, [:user, :app]},
        default: :user,
        doc: "`:app` leaves alone the dead runs whose record does not name this application."
      ],
      deadline: [
        type: Schema.milliseconds(),
        default: 10_000,
        doc:
          "Milliseconds for everything. Shims of a dead run get the time of their own " <>
            "ladder, but at most this."
      ],
      stop:
        Keyword.replace!(
          Leash.Ladder.option(:signals),
          :doc,
          "The steps for processes without a living shim."
        )
    ]
    |> Schema.new()
  end

  @doc false
  @spec run(keyword()) :: {:ok, t()} | {:error, :not_running | term()}
  def run(options) do
    options = Schema.unwrap!(Schema.validate(schema(), options))

    with {:ok, run} <- Run.fetch() do
      Telemetry.sweep(run, options.mode, fn ->
        with {:ok, report} <- Cleanup.run(spec(options, run)), do: {:ok, from_report(report)}
      end)
    end
  end

  @doc false
  @spec kill_run(Leash.RunId.t()) :: {:ok, t()} | {:error, atom()}
  def kill_run(run_id) do
    with :ok <- if(RunId.valid?(run_id), do: :ok, else: {:error, :invalid_run_id}),
         {:ok, run} <- Run.fetch(),
         :ok <- if(run.id == run_id, do: {:error, :own}, else: :ok),
         {:ok, report} <- Cleanup.run(run_spec(run, run_id)) do
      refused(report)
    end
  end

  defp run_spec(run, run_id) do
    %{
      kind: :run,
      run_id: run_id,
      own_run_id: run.id,
      run_dir: run.config.run_dir,
      app: run.config.app,
      deadline: 10_000,
      ladder: ladder(Ladder.default())
    }
  end

  defp refused(%{refused: {:run, verdict}}), do: {:error, verdict}
  defp refused(report), do: {:ok, from_report(report)}

  defp spec(options, run) do
    %{
      kind: :sweep,
      run_id: run.id,
      run_dir: run.config.run_dir,
      app: run.config.app,
      mode: options.mode,
      scope: options.scope,
      deadline: options.deadline,
      ladder: ladder(options.stop)
    }
  end

  @doc false
  @spec ladder(Leash.Ladder.signals()) :: [{pos_integer(), non_neg_integer()}]
  def ladder(steps) do
    for step <- steps do
      {:ok, number} = Leash.Signal.number(elem(step, 0))
      {number, with(:infinity <- elem(step, 1), do: 0x7FFFFFFF)}
    end
  end

  @doc false
  @spec from_report(map()) :: t()
  def from_report(report), do: struct(__MODULE__, Map.delete(report, :refused))

  # The report of the sweep at application start, before which no telemetry handler can be
  # attached.
  @last {__MODULE__, :last}

  @doc """
  Returns the report of the sweep at the last start of the `:leash` application.

  Returns `nil` before the first start, and if that start did not sweep
  (`config :leash, sweep: false`, or the sweep failed, which the log says).
  """
  @spec last() :: t() | nil
  def last, do: :persistent_term.get(@last, nil)

  @doc false
  @spec remember(t() | nil) :: :ok
  def remember(report), do: :persistent_term.put(@last, report)

  # The log names so many processes. Their number is always there.
  @named 20

  # A process with one of these verdicts may be what a crash has left.
  @doubtful [:env_only, :unproven]

  @doc false
  # The lines that this library logs by itself. It killed something that it was not asked for
  # at this moment, so the log must show whether that was right. And what it left may hold a port
  # or a file that the application wants, so the log must name that, too.
  @spec log(t()) :: :ok
  def log(report) do
    log_ended(report, Enum.filter(report.matches, &(&1.action in [:ended, :survived])))

    log_doubtful(
      for %{verdict: verdict} = kept when verdict in @doubtful <- report.matches, do: kept
    )
  end

  defp log_doubtful([]), do: :ok

  defp log_doubtful(kept) do
    Logger.warning([
      "Leash left #{length(kept)} processes that may be of dead runs: ",
      named(kept, &"#{&1.pid} (#{&1.command}): #{&1.why}")
    ])
  end

  defp log_ended(report, ended) do
    if ended != [] do
      runs = ended |> Enum.map(& &1.run_id) |> Enum.uniq()

      Logger.warning([
        "Leash swept #{length(ended)} processes of #{length(runs)} dead runs " <>
          "(#{Enum.join(runs, ", ")}) ",
        "in #{report.elapsed_ms} ms: ",
        named(ended, &"#{&1.pid} (#{&1.command}) by #{Enum.join(&1.carriers, "+")}"),
        survivors(report.survivors)
      ])
    end

    :ok
  end

  defp survivors([]), do: []

  defp survivors(list),
    do: ["; still alive: ", named(list, &"#{&1.pid} (#{&1.command}): #{&1.why}")]

  defp named(list, describe) do
    {first, rest} = Enum.split(list, @named)
    text = Enum.map_join(first, ", ", describe)
    if rest == [], do: text, else: [text, ", and #{length(rest)} more"]
  end
end
