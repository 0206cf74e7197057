defmodule Leash.Cgroup do
  alias Leash.Guard.Options, as: Sizes

  @bytes [
    type: {:custom, __MODULE__, :bytes, []},
    type_doc: "bytes, or text such as \"512MB\", \"8GB\" or \"1GiB\"",
    type_spec: quote(do: non_neg_integer() | String.t())
  ]

  @weight [type: {:in, 1..10_000}]

  @keys [
    memory:
      @bytes ++
        [
          doc:
            "The most memory, `memory.max`. If the tree needs more, then the kernel kills all " <>
              "of it, and `Leash.Exit` says `oom_killed?: true`."
        ],
    swap:
      @bytes ++
        [doc: "The most swap, `memory.swap.max`. With 0 the tree never swaps."],
    pids: [
      type: :pos_integer,
      doc:
        "The most processes and threads, `pids.max`. Past it, fork(2) of the tree fails with " <>
          "EAGAIN. It holds for root, too."
    ],
    cpu: [
      type: {:custom, __MODULE__, :cpus, []},
      type_doc: "a number of CPUs from 0.01 up, such as 1.5",
      type_spec: quote(do: number()),
      doc: "The most CPUs at a time, `cpu.max` per 100 ms."
    ],
    cpu_weight:
      @weight ++
        [
          doc:
            "The share of CPU time against other groups when there is not enough, " <>
              "`cpu.weight`. A group without it has 100."
        ],
    io_weight:
      @weight ++
        [
          doc:
            "The share of disk time, `io.weight`. It needs an I/O scheduler that knows shares " <>
              "(bfq, or iocost)."
        ],
    required: [
      type: :boolean,
      default: true,
      doc:
        "With `false` the program starts without a group if there can be none. " <>
          "`Leash.Worker.info/1` then says why."
    ]
  ]

  @moduledoc """
  Limits of a whole tree, by a control group of its own (cgroups(7), version 2).

      {Leash.Worker, command: "python3", args: ["embed.py"], cgroup: [memory: "2GB", pids: 200]}
      Leash.cmd("make", ["-j8"], cgroup: [cpu: 1.5, memory: "4GB", swap: 0])
      Leash.cmd("make", ["test"], cgroup: true)

  `true` makes a group without limits. Its tree is counted, and is ended as one.

  #{Leash.Schema.docs(Leash.Schema.new(@keys))}
  The program starts inside of the group, with everything that it starts. Its shim stays outside.
  So it is not killed or frozen with the tree, and tells how the tree ended.

  ## Where

  The group is `leash-<run id>-<number>` (with `-keep` behind it if the tree may outlive its VM),
  below a group that this VM may change:

    * `config :leash, cgroup: "/sys/fs/cgroup/…"`, if that is set
    * The root group, if the VM is in it
    * The group above the VM's own, if it is delegated: this user may write to it, it has no
      process of its own, and it is no slice of systemd. A unit has such a group with
      `Delegate=yes` and `DelegateSubgroup=vm` (systemd 254)
    * The VM's own group otherwise. It has a process, so the kernel lets no controller be enabled
      in it: there `cgroup: true` works, and limits do not

  `Leash.capabilities/0` says which of these it is, and which controllers can be had there
  (`:cgroup`). Leash moves no process but those that it starts. `guides/limits.md` shows how a
  host hands a group to the VM.

  ## Errors

  Without the group the start fails with `{:error, {:cgroup, why}}`, unless `required: false` is
  given. `Leash.Error.format/1` has a sentence for it:

    * `:no_cgroup2` - no hierarchy of version 2 is mounted
    * `{:no_cgroup, path}` - what is configured is no control group
    * `{:no_controller, name, path}` - there is no such controller at that place. Version 1 has
      it, or the group above does not hand it down
    * `{:occupied, path}` - that group has processes, so no controller can be enabled in it
    * `{:busy, path}` - an earlier group of that name has something that cannot be ended
    * `{posix, path}` - the kernel's error and the file: `:eacces`, `:erofs`, `:enoent` …
    * `posix` - the program could not be started in the group
  """

  alias Leash.{Native, Run, Schema}

  # The processes of a group that was just killed end within these pauses, in milliseconds.
  @pauses [1, 2, 4, 8, 16, 32, 64, 128]

  @type t :: [unquote(Schema.typespec(Schema.new(@keys)))]

  @doc false
  # The option `:cgroup`.
  @spec option() :: keyword()
  def option do
    [
      type: {:or, [nil, {:in, [true, false]}, keyword_list: @keys]},
      type_doc: "true, or a keyword list of limits",
      type_spec: quote(do: boolean() | Leash.Cgroup.t()),
      doc: "A control group for the whole tree, and its limits, see `Leash.Cgroup`."
    ]
  end

  @doc false
  @spec directory(term()) :: {:ok, Path.t()} | {:error, String.t()}
  def directory("/" <> _ = path) do
    if Schema.text?(path), do: {:ok, path}, else: directory(nil)
  end

  def directory(_other), do: {:error, "the absolute path of a control group"}

  @doc false
  @spec bytes(term()) :: {:ok, non_neg_integer()} | {:error, String.t()}
  def bytes(size) do
    with :error <- Sizes.bytes(size), do: {:error, @bytes[:type_doc]}
  end

  @doc false
  @spec cpus(term()) :: {:ok, number()} | {:error, String.t()}
  def cpus(count) when is_number(count) and count >= 0.01 and count <= 100_000, do: {:ok, count}
  def cpus(_other), do: {:error, @keys[:cpu][:type_doc]}

  @doc false
  # The place of the groups of this run, for `Leash.capabilities/0`.
  @spec place(Path.t() | nil) ::
          {:ok, %{parent: Path.t(), controllers: [atom()]}} | {:error, Native.cgroup_error()}
  def place(configured) do
    with {:ok, place} <- Native.cgroup_place(configured || ""),
         do: {:ok, %{place | controllers: Enum.map(place.controllers, &controller/1)}}
  end

  # The names are the kernel's. One that a later kernel adds stays text.
  @controllers ~w(cpu cpuset dmem hugetlb io memory misc perf_event pids rdma)a
  defp controller(name), do: Enum.find(@controllers, name, &(Atom.to_string(&1) == name))

  @doc false
  # Makes the group of a worker. The option becomes the group's path, or the reason why there is
  # none.
  @spec make(Run.t(), pos_integer(), map()) ::
          {:ok, map()} | {:error, {:cgroup, Native.cgroup_error()}}
  def make(_run, _number, %{cgroup: false} = options), do: {:ok, %{options | cgroup: nil}}

  def make(run, number, %{cgroup: given} = options) do
    {required?, limits} = if given == true, do: {true, []}, else: Keyword.pop(given, :required)

    with {:ok, %{parent: parent}} <- Native.cgroup_place(run.config.cgroup || ""),
         :ok = note(run, parent),
         name = name(run, number, keeps?(options)),
         {:ok, path} <- Native.cgroup_make(parent, name, Enum.map(limits, &file/1)) do
      {:ok, %{options | cgroup: path}}
    else
      {:error, why} when required? -> {:error, {:cgroup, why}}
      {:error, why} -> {:ok, %{options | cgroup: {:error, why}}}
    end
  end

  @noted {__MODULE__, :noted}

  # The record says where the groups of a run are, for the sweep after a crash. A lost line costs
  # an empty directory.
  defp note(%Run{lock: {:ok, lock}, id: id}, parent) do
    if :persistent_term.get(@noted, nil) != {id, parent} and String.valid?(parent) do
      _ = Native.run_append_groups(lock, parent)
      :persistent_term.put(@noted, {id, parent})
    end

    :ok
  end

  defp note(_no_record, _parent), do: :ok

  # Read by `GroupName` of the core. Nothing in a group that may stay is ended for its place.
  defp name(run, number, false), do: "leash-#{run.id}-#{number}"
  defp name(run, number, true), do: "leash-#{run.id}-#{number}-keep"

  defp keeps?(options), do: options[:on_exit] in [:keep, :detach]

  @doc false
  # The group of a worker, for its row: none, one that ends with the tree, or one that may stay.
  @spec kind(map()) :: nil | :ends | :stays
  def kind(%{cgroup: group} = options) when group not in [nil, false],
    do: if(keeps?(options), do: :stays, else: :ends)

  def kind(_no_group), do: nil

  defp file({:memory, bytes}), do: {"memory.max", "#{bytes}"}
  defp file({:swap, bytes}), do: {"memory.swap.max", "#{bytes}"}
  defp file({:pids, count}), do: {"pids.max", "#{count}"}
  defp file({:cpu, cpus}), do: {"cpu.max", "#{round(cpus * 100_000)} 100000"}
  defp file({:cpu_weight, weight}), do: {"cpu.weight", "#{weight}"}
  defp file({:io_weight, weight}), do: {"io.weight", "default #{weight}"}

  @doc false
  # What a tree has used, as fields of `Leash.Exit`.
  @spec used(Path.t()) :: %{
          oom_killed?: boolean(),
          peak_memory: non_neg_integer() | nil,
          cpu_time: non_neg_integer() | nil
        }
  def used(path) do
    usage = Native.cgroup_usage(path)

    %{
      oom_killed?: usage.oom_killed == true,
      peak_memory: usage.peak_memory,
      cpu_time: usage.cpu_time && div(usage.cpu_time, 1_000)
    }
  end

  @doc false
  # Removes the group of a tree that is gone. A process that joined it gets SIGKILL. What cannot
  # be removed now is left to the sweep after this run.
  @spec remove(Path.t()) :: :ok
  def remove(path), do: remove(path, @pauses)

  defp remove(path, pauses) do
    case {Native.cgroup_remove(path, true), pauses} do
      {{:error, {:busy, _path}}, [ms | pauses]} -> receive(after: (ms -> remove(path, pauses)))
      _removed_or_vain -> :ok
    end
  end

  @doc false
  # The same for a number that is free, whose tree may have been kept.
  @spec clear(Run.t(), pos_integer(), :ends | :stays) :: :ok
  def clear(run, number, kind) do
    with {:ok, %{parent: parent}} <- Native.cgroup_place(run.config.cgroup || "") do
      path = Path.join(parent, name(run, number, kind == :stays))
      if kind == :ends, do: remove(path), else: Native.cgroup_remove(path, false)
    end

    :ok
  end
end
