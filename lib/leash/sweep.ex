defmodule Leash.Sweep do
  @moduledoc """
  What a sweep found and did: the result of `Leash.sweep/1`.

  A sweep looks for processes that carry the tag of a run whose VM is gone, and ends them. It runs
  at the start of the `:leash` application, before any worker can start.

    * `:matches` - every process that carries a tag, see `t:match/0`
    * `:runs` - every run that was seen, with its verdict and why
    * `:survivors` - the matches that should have ended and live, with `:why`: `:eperm`,
      `:uninterruptible` (state D), `:kill_pending`, `:deadline`, `:descriptors_exhausted`, `:no_pidfd` (the machine refuses pidfds, and nothing is
      signalled by its number), `:unreadable` or `:tag_lost`
    * `:complete` - whether all of `/proc` could be seen; `:incomplete_because` says what could not: `:no_proc`, `:hidepid`,
      `:no_identity` (`subset=pid`: processes are seen, but not which boot this is, so no run is judged), `:descriptors_exhausted`,
      `:unreadable`, `:records`, `:fleeting`. `:hidepid` alone: only other users' processes were not seen
    * `:passes` - how many times the process table was read; the last one found nothing to end
    * `:elapsed_ms` - milliseconds in all
    * `:records_dropped` - ids of runs of which nothing is left

  ## How a run is judged

  One living witness is enough to keep a run. It is *dead* only if the lock on its record is free
  (or held by a forked child of a VM that is provably gone), its owner - by pid, start time, boot and
  pid namespace - is provably gone, and no process of it names a living owner. Otherwise its processes
  are kept, and the verdict says why:

  | verdict | meaning |
  |---|---|
  | `:dead` | ended by the sweep |
  | `:own` | this VM's own run |
  | `:live` | its VM lives |
  | `:own_outer_run` | this VM is itself part of that run |
  | `:disputed` | the witnesses contradict each other |
  | `:unknown_owner` | nothing says who owned it, or its owner cannot be seen |
  | `:foreign_namespace` | its owner lived in another pid namespace |

  A process of a dead run is kept, too, if it outlives its VM on purpose (`:outlives`), owns a live run or
  descends from such an owner (`:live_run_owner`), is older than its run's owner (`:predates_owner`), or belongs to
  another user without everything that proves it ours (`:foreign_user`).

  The environment alone convicts nothing (`:env_only`): daemons such as `at` and pm2 hand it to processes that are no
  descendants. It counts only if the missing mark is explained and every living ancestor of the process is of the run:

    * the mark of its worker was off or could not be set, or the process has lowered its own limits below it; or
    * the VM's bounding set holds CAP_SYS_RESOURCE, with which `su` and `sudo` reset the mark, and the process is in
      the VM's control group.
  """

  alias Leash.{Cleanup, OptionsError, Run, Schema, Telemetry}

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
  A process that carries a tag: `:pid`, `:start_ticks`, `:command`, `:state`, `:uid`, `:run_id`,
  `:worker`, `:carriers` (which of `:mark`, `:env`, `:argv` say so), `:verdict` and `:why`, `:action`
  (`:ended`, `:kept`, `:survived`, `:gone`) and `:ended_by`. `:start_ticks` is `nil` where `/proc` hides it.
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
        type: Schema.one_of([:end, :report]),
        default: :end,
        doc: "`:report` only looks and explains."
      ],
      scope: [
        type: Schema.one_of([:user, :app]),
        default: :user,
        doc: "`:app` leaves alone the dead runs whose record does not name this application."
      ],
      deadline: [
        type: Schema.milliseconds(),
        default: 10_000,
        doc:
          "Milliseconds for everything; shims of a dead run get what their own ladder takes, at most this."
      ],
      stop: [
        type: Leash.Ladder.signals_type(),
        default: Leash.Ladder.default(),
        doc: "The steps for processes without a living shim."
      ]
    ]
    |> Schema.new()
  end

  @doc false
  @spec run(keyword()) :: {:ok, t()} | {:error, OptionsError.t() | term()}
  def run(options) do
    with {:ok, options} <- Schema.validate(schema(), options),
         {:ok, run} <- fetch_run() do
      Telemetry.sweep(run, options.mode, fn ->
        with {:ok, report} <- Cleanup.run(spec(options, run)), do: {:ok, from_report(report)}
      end)
    end
  end

  defp fetch_run, do: with(:error <- Run.fetch(), do: {:error, :not_running})

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

  # The report of the sweep at application start, which no telemetry handler can be attached before.
  @last {__MODULE__, :last}

  @doc """
  The report of the sweep at the last start of the `:leash` application.

  `nil` where that start did not sweep (`config :leash, sweep: false`, or the sweep failed, which the log says), and
  before the first start.
  """
  @spec last() :: t() | nil
  def last, do: :persistent_term.get(@last, nil)

  @doc false
  @spec remember(t() | nil) :: :ok
  def remember(report), do: :persistent_term.put(@last, report)

  # So many processes are named in the log; their number is always there.
  @named 20

  @doc false
  # The one line that this library writes by itself: something was killed that was not asked for at this moment, so the
  # operator has to see whether that was right.
  @spec log(t()) :: :ok
  def log(report) do
    ended = Enum.filter(report.matches, &(&1.action in [:ended, :survived]))

    if ended != [] do
      runs = ended |> Enum.map(& &1.run_id) |> Enum.uniq()

      Logger.warning([
        "Leash swept #{length(ended)} processes of #{length(runs)} dead runs (#{Enum.join(runs, ", ")}) ",
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
