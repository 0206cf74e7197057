defmodule Leash.Limits do
  # RLIM_INFINITY is one more, and means no limit.
  @number [
    type: {:in, 0..0xFFFFFFFFFFFFFFFE},
    type_doc: "a number from 0 to 2^64 - 2",
    type_spec: quote(do: non_neg_integer())
  ]

  @keys [
    open_files: @number ++ [doc: "Descriptors, `RLIMIT_NOFILE`."],
    processes:
      @number ++
        [
          doc:
            "Processes and threads of the *user*, not of the tree, `RLIMIT_NPROC`. Root is " <>
              "not limited by it."
        ],
    core: @number ++ [doc: "Bytes of a core dump, `RLIMIT_CORE`; 0 for none."],
    file_size:
      @number ++
        [doc: "Bytes of a file that it writes, `RLIMIT_FSIZE`; beyond that it gets SIGXFSZ."],
    cpu_seconds:
      @number ++
        [
          doc:
            "Seconds of CPU time of each process, `RLIMIT_CPU`; beyond that it gets SIGXCPU, " <>
              "then SIGKILL."
        ],
    address_space: @number ++ [doc: "Bytes of address space of each process, `RLIMIT_AS`."],
    nice: [type: {:in, -20..19}, doc: "The nice value, see nice(1)."]
  ]

  @moduledoc """
  The kernel's limits for a program.

  They are set between fork and exec. The program cannot raise them, and its children inherit
  them.

      limits: [open_files: 8_192, processes: 512, core: 0, nice: 5]

  #{Leash.Schema.docs(Leash.Schema.new(@keys))}
  Soft and hard limit get the same value, see setrlimit(2). A limit above the VM's own needs
  `CAP_SYS_RESOURCE` (a lower nice value: `CAP_SYS_NICE`). Without the capability the start fails
  with `{:limits, :eperm}` or `{:limits, :eacces}`. To limit a whole *tree*, use `:cgroup`, see
  `Leash.Cgroup`.
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

  @type t :: [unquote(Leash.Schema.typespec(Leash.Schema.new(@keys)))]

  @doc false
  # The option `:limits`.
  @spec option() :: keyword()
  def option do
    [
      type: :keyword_list,
      keys: @keys,
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
