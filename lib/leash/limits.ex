defmodule Leash.Limits do
  @moduledoc """
  The kernel's limits for a program.

  They are set between fork and exec. The program cannot raise them, and its children inherit
  them.

      limits: [open_files: 8_192, processes: 512, core: 0, nice: 5]

    * `:open_files` - descriptors, `RLIMIT_NOFILE`
    * `:processes` - processes and threads of the *user*, not of the tree, `RLIMIT_NPROC`; root is
      not limited by it
    * `:core` - bytes of a core dump, `RLIMIT_CORE`; 0 for none
    * `:file_size` - bytes of a file that it writes, `RLIMIT_FSIZE`; beyond that it gets SIGXFSZ
    * `:cpu_seconds` - seconds of CPU time of each process, `RLIMIT_CPU`; beyond that it gets
      SIGXCPU, then SIGKILL
    * `:address_space` - bytes of address space of each process, `RLIMIT_AS`
    * `:nice` - the nice value, -20 to 19, see nice(1)

  Soft and hard limit get the same value, see setrlimit(2). A limit above the VM's own needs
  `CAP_SYS_RESOURCE` (a lower nice value: `CAP_SYS_NICE`). Without the capability the start fails
  with `{:limits, :eperm}` or `{:limits, :eacces}`. Only a control group can limit memory and CPU
  of a whole *tree*.
  """

  @names [
    open_files: "NOFILE",
    processes: "NPROC",
    core: "CORE",
    file_size: "FSIZE",
    cpu_seconds: "CPU",
    address_space: "AS",
    nice: "NICE"
  ]

  # RLIM_INFINITY is one more, and means no limit.
  @most 0xFFFFFFFFFFFFFFFE

  @type t :: [
          {:open_files
           | :processes
           | :core
           | :file_size
           | :cpu_seconds
           | :address_space, non_neg_integer()}
          | {:nice, -20..19}
        ]

  @doc false
  # The option `:limits`.
  @spec option() :: keyword()
  def option do
    [
      type: :keyword_list,
      keys:
        for {name, _resource} <- @names do
          {name, if(name == :nice, do: [type: {:in, -20..19}], else: [type: {:in, 0..@most}])}
        end,
      default: [],
      type_spec: quote(do: Leash.Limits.t()),
      doc: "The kernel's limits for the program, see `Leash.Limits`."
    ]
  end

  @doc false
  # The value of leash-shim's `--limits=`.
  @spec to_option(t()) :: String.t()
  def to_option(limits),
    do: Enum.map_join(limits, ",", fn {name, value} -> "#{@names[name]}:#{value}" end)
end
